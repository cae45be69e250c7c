"""Everything that runs on a server: Python 3.10 or newer, standard library, imports only itself."""
