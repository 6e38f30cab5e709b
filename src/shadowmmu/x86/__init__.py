"""What the processor manual says about paging. Knows nothing of a hypervisor."""
