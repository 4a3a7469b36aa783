"""Images: reading each kind of data set, splitting it, and batches of it on the device."""

__all__: list[str] = []
