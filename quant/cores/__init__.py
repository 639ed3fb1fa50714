# SPDX-License-Identifier: Apache-2.0
"""The core library. The file stem is the registry: every module here is a core."""
