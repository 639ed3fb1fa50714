# SPDX-License-Identifier: Apache-2.0
"""Vitis HLS backend: cores in C++, code generation, C-simulation with g++."""
