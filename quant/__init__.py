# SPDX-License-Identifier: Apache-2.0
"""The integer meaning of a network: types, rounding, cores, the Graph and what is done with it."""
