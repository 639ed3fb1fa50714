// SPDX-License-Identifier: Apache-2.0

// The file of a memory image, for $readmemh. With SHARE_CODE, which only simulations set, "%m" in its name stands
// for the instance: instances that differ in nothing but their files are one module then, and Verilator compiles
// the blocks of a network once.
`ifndef SIEVIT_MEMORY_SVH
`define SIEVIT_MEMORY_SVH
`ifdef SHARE_CODE
`define MEMORY_FILE(Name) $sformatf(Name)
`else
`define MEMORY_FILE(Name) Name
`endif
`endif
