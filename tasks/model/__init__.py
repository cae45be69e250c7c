"""Values: standard library only, no I/O, no knowledge of servers."""
