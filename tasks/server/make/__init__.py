"""The kinds of things a server is made of: `look` tells what there is, `make` makes it so, as often as one likes."""
