# SPDX-License-Identifier: Apache-2.0
"""Float and quantised networks, pruning, training, export."""
