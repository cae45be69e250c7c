"""A lost server: what was fetched of it is put in its place."""
