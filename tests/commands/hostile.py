"""Files that would run something when they are unpickled."""


def touch(path):
    path.touch()


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (touch, (self.path,))
