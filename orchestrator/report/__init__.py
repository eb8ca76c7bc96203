"""What people see: the live view, tables, manifests and experiment directories."""
