"""What developing the pack needs: a host, a server, a converter of workflows."""
