"""The power-cut explorer: every disk state that a crash may leave is built, recovered and checked.

``disk.py`` records what a log does to its files and knows what a device may make of it; ``story.py`` knows what the
log has promised at each moment; ``scenarios.py`` are lives of a log; ``examine.py`` recovers one state and looks;
``explorer.py`` puts them together; ``broken.py`` are builds that are wrong, and that the explorer must catch.
"""
