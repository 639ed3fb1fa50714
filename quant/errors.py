# SPDX-License-Identifier: Apache-2.0
"""What the user can mend: the command line tells it in one line."""


class SievitError(Exception):
    """Base of every error whose message names the thing and the remedy."""
