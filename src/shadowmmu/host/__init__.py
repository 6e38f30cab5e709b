"""The hypervisor's machine: frames in one arena, and what backs guest memory."""
