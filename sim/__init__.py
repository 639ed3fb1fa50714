# SPDX-License-Identifier: Apache-2.0
"""Simulation of the RTL in Verilator through cocotb."""
