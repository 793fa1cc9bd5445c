"""Data: from files on a disk to batches on a device, by way of one index table."""
