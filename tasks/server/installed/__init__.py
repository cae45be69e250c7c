"""What timers, boot and sudo start; owned by root, installed by `fab provision`."""
