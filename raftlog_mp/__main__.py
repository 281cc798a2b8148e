"""``python -m raftlog_mp``: the command line; and, without loading it, the writers that handles start."""

import sys


def main() -> int:
    """Run the command line, or a spawned writer."""
    if len(sys.argv) == 4 and sys.argv[1] == "serve" and sys.argv[3] == "--spawned":
        from .spawned import serve_spawned

        return serve_spawned(sys.argv[2])
    from .cli import main as cli_main

    return cli_main()


if __name__ == "__main__":
    sys.exit(main())
