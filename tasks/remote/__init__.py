"""What to say to a server: one module per thing that lives there, all pure."""
