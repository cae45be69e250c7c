"""The whole product against real servers."""
