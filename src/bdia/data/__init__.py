"""Data modules. Each is imported from its own file, so that text runs do not load torchvision and the reverse."""
