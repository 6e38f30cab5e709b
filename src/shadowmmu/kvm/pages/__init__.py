"""Shadow pages: roles, lookup and allocation, synchronization, zapping, roots."""
