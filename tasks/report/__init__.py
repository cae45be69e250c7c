"""Shows plans and events to people and to programs."""
