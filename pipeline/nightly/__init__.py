"""Labels new images every night, unattended: lock, deadline, retries and report."""
