# SPDX-License-Identifier: Apache-2.0
"""The road from a recipe to a report: steps, command line, report."""
