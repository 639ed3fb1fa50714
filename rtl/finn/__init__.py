# SPDX-License-Identifier: Apache-2.0
"""FINN (package finn-plus) as a back end: the cores as its operators, conversion, stitched top."""
