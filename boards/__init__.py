# SPDX-License-Identifier: Apache-2.0
"""Boards: one TOML file each, and what is done with them."""
