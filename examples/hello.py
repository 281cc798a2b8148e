import raftlog_mp as rl

with rl.open_log("hello-log") as log:          # a directory; whoever opens it first starts the writer process
    index = log.append(b"hello")               # on disk when it returns; any number of processes may append
    log.append_many([b"a", b"b", b"c"])        # one batch: all or nothing, at contiguous indexes
    print(index, log.get(index).payload)

with rl.open_reader("hello-log") as reader:    # in any other process, at the same time
    for entry in reader.follow(1, timeout=1):  # sleeps until the next append; ends after 1 s of silence
        print(entry.index, entry.payload)
    print("on disk up to entry", reader.durable_index)
