"""The one exception that a user is meant to read: a line that says what is wrong and what would be right."""


class CharrnnError(Exception):
    """Something the user can mend. `exit_status` is 2 for unusable input, 1 for what failed while running."""

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status
