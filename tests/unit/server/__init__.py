"""What runs on a server, called in process and as a child."""
