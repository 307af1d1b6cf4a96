"""Images: CIFAR-10 and CIFAR-100, the embedded digits, augmentation, the split and its loaders."""
