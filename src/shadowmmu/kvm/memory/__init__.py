"""What user space and the host do to guest memory: memslots, notifiers, dirty logs."""
