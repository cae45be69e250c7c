"""What a session does between the calls that it carries out: lock, and later lease, runs and children."""
