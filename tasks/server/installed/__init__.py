"""What timers and units start on a server, as root; `place` installs it, a copy for each hash of the code."""
