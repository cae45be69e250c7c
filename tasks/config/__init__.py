"""releases.toml becomes values, or one list of everything that is wrong with it."""
