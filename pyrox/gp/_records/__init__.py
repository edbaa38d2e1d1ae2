"""What is written of all these: files to keep, tables to read."""
