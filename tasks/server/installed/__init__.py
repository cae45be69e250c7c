"""What timers, boot and sudo start on a server; root's, installed by `fab provision`."""
