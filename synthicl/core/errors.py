"""The one exception for mistakes a user can mend: its text is the single line the command line prints."""


class UserError(Exception):
    """Bad input. The message names the flag or file, what was found there, and what to do."""
