"""What a program did, and where it is: counts by cause, the screen at a point, reasons for its entries."""
