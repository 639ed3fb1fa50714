# SPDX-License-Identifier: Apache-2.0
"""SystemVerilog cores and the RTL flow."""
