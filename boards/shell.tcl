# SPDX-License-Identifier: Apache-2.0
# The Vivado project of an accelerator on a Zynq board: vivado -mode batch -source shell.tcl [-tclargs project]
#
# Everything that depends on board and model is in settings.tcl beside this file, which `sievit bitstream` writes. The
# folder may be moved to the machine that has Vivado. Left behind: accelerator.bit, accelerator.hwh, utilisation.rpt,
# timing.rpt; with "project" the project alone.
#
#   PS (100 MHz) --- control --- dma, accelerator, core      registers, AXI4-Lite
#   memory of PS --- memory ---- dma                         images and logits
#   dma --- to_accelerator --- accelerator --- from_accelerator --- dma      streams, across to the clock of the core
#   accelerator --- core --- accelerator                     with core = hls only: else it is inside

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
set step [expr {[llength $argv] ? [lindex $argv 0] : "bitstream"}]
if {$step ni {project bitstream}} { error "no step $step; known: project, bitstream" }

# names of the processing systems' ports and options
set systems {
  zynq_ultra_ps_e {
    clock pl_clk0 reset pl_resetn0 base 0xA0000000 address_bits 40
    master M_AXI_HPM0_FPD master_clock maxihpm0_fpd_aclk
    slave S_AXI_HP0_FPD slave_clock saxihp0_fpd_aclk
    options {
      CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0
      CONFIG.PSU__USE__S_AXI_GP2 1 CONFIG.PSU__SAXIGP2__DATA_WIDTH %WIDTH
      CONFIG.PSU__FPGA_PL0_ENABLE 1 CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ %MHZ
    }
    automation {apply_board_preset 1}
  }
  processing_system7 {
    clock FCLK_CLK0 reset FCLK_RESET0_N base 0x40000000 address_bits 32
    master M_AXI_GP0 master_clock M_AXI_GP0_ACLK
    slave S_AXI_HP0 slave_clock S_AXI_HP0_ACLK
    options {
      CONFIG.PCW_USE_M_AXI_GP0 1
      CONFIG.PCW_USE_S_AXI_HP0 1 CONFIG.PCW_S_AXI_HP0_DATA_WIDTH %WIDTH
      CONFIG.PCW_EN_CLK0_PORT 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ %MHZ
    }
    automation {make_external "FIXED_IO, DDR" apply_board_preset 1 Master Disable Slave Disable}
  }
}
set bus_mhz 100
set ps [dict get $systems [dict get $board ps]]

# -- the accelerator as IP -----------------------------------------------------------------------
# $readmemh of Vivado does not look beside the source: the names of memory images become absolute here
set work [file join $here ip work]
file mkdir $work
set sources {}
foreach name [dict get $design sources] {
  set path [file join $here ip $name]
  if {$name eq "[dict get $design model].sv"} {
    set in [open $path]
    set text [string map [list "\"mem/" "\"[file join $here ip mem]/"] [read $in]]
    close $in
    set path [file join $work $name]
    set out [open $path w]
    puts -nonewline $out $text
    close $out
  }
  lappend sources $path
}
create_project -force accelerator_ip [file join $here ip_project] -part [dict get $board part]
add_files -norecurse $sources
set_property include_dirs [file join $here ip lib] [current_fileset]
set_property top [dict get $design top] [current_fileset]
update_compile_order -fileset sources_1
# in place: imported, the files would lose the folders by which they include each other
ipx::package_project -root_dir [file join $here ip] -vendor sievit -library sievit -taxonomy /UserIP -force
set ip [ipx::current_core]
set_property name accelerator $ip
set_property version 1.0 $ip
set_property display_name "sievit [dict get $design model]" $ip
ipx::create_xgui_files $ip
ipx::update_checksums $ip
ipx::check_integrity $ip
ipx::save_core $ip
close_project

# -- block design --------------------------------------------------------------------------------
create_project -force accelerator [file join $here project] -part [dict get $board part]
if {[dict get $board board_part] ne ""} {
  set_property board_part [dict get $board board_part] [current_project]
}
set repositories [list [file join $here ip]]
set hls [expr {[dict get $design core] eq "hls"}]
if {$hls} {
  set found [glob -nocomplain -directory [file join $here .. hls build_hls] sol1/impl/ip hls/impl/ip]
  if {![llength $found]} { error "no IP in hls/build_hls: run vitis_hls -f run_hls.tcl -tclargs csynth export there" }
  lappend repositories [lindex $found 0]
}
set_property ip_repo_paths $repositories [current_project]
update_ip_catalog
create_bd_design shell

proc cell {name vlnv args} {
  create_bd_cell -type ip -vlnv $vlnv $name
  if {[llength $args]} { set_property -dict $args [get_bd_cells $name] }
}
proc wire {from args} {
  foreach to $args { connect_bd_net [get_bd_pins $from] [get_bd_pins $to] }
}
proc stream {from to} {
  connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}

cell ps xilinx.com:ip:[dict get $board ps]
if {[dict get $board board_part] ne ""} {
  apply_bd_automation -rule xilinx.com:bd_rule:[dict get $board ps] -config [dict get $ps automation] [get_bd_cells ps]
}
set options [string map [list %WIDTH [dict get $board dma_width] %MHZ $bus_mhz] [dict get $ps options]]
set_property -dict $options [get_bd_cells ps]
cell clock xilinx.com:ip:clk_wiz CONFIG.PRIM_SOURCE No_buffer CONFIG.PRIM_IN_FREQ $bus_mhz \
  CONFIG.CLKOUT1_REQUESTED_OUT_FREQ [dict get $board clock_mhz] CONFIG.RESET_TYPE ACTIVE_LOW \
  CONFIG.RESET_PORT resetn
set pumped [expr {[dict get $design pump] == 2}]
if {$pumped} {
  # both from one MMCM, with equal delays (CLOCK_DELAY_GROUP): paths between them are those of a fast cycle
  set_property -dict [list CONFIG.CLKOUT2_USED true \
    CONFIG.CLKOUT2_REQUESTED_OUT_FREQ [expr {2 * [dict get $board clock_mhz]}] \
    CONFIG.CLKOUT1_MATCHED_ROUTING true CONFIG.CLKOUT2_MATCHED_ROUTING true] [get_bd_cells clock]
}
cell bus_reset xilinx.com:ip:proc_sys_reset
cell core_reset xilinx.com:ip:proc_sys_reset
set length 26
cell dma xilinx.com:ip:axi_dma CONFIG.c_include_sg 0 CONFIG.c_sg_include_stscntrl_strm 0 \
  CONFIG.c_sg_length_width $length CONFIG.c_addr_width [dict get $ps address_bits] \
  CONFIG.c_m_axi_mm2s_data_width [dict get $design mm2s_width] \
  CONFIG.c_m_axis_mm2s_tdata_width [dict get $design in_width] \
  CONFIG.c_m_axi_s2mm_data_width [dict get $design s2mm_width] \
  CONFIG.c_mm2s_burst_size 16 CONFIG.c_s2mm_burst_size 16
cell control xilinx.com:ip:smartconnect CONFIG.NUM_SI 1 CONFIG.NUM_MI [expr {2 + $hls}] CONFIG.NUM_CLKS 2
cell memory xilinx.com:ip:smartconnect CONFIG.NUM_SI 2 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 1
cell to_accelerator xilinx.com:ip:axis_data_fifo CONFIG.IS_ACLK_ASYNC 1 CONFIG.FIFO_DEPTH 512
cell from_accelerator xilinx.com:ip:axis_data_fifo CONFIG.IS_ACLK_ASYNC 1 CONFIG.FIFO_DEPTH 512
cell accelerator sievit:sievit:accelerator:1.0

wire ps/[dict get $ps clock] clock/clk_in1 bus_reset/slowest_sync_clk control/aclk memory/aclk \
  ps/[dict get $ps master_clock] ps/[dict get $ps slave_clock] \
  dma/s_axi_lite_aclk dma/m_axi_mm2s_aclk dma/m_axi_s2mm_aclk \
  to_accelerator/s_axis_aclk from_accelerator/m_axis_aclk
wire ps/[dict get $ps reset] clock/resetn bus_reset/ext_reset_in core_reset/ext_reset_in
wire clock/clk_out1 core_reset/slowest_sync_clk control/aclk1 accelerator/clk_i \
  to_accelerator/m_axis_aclk from_accelerator/s_axis_aclk
if {$pumped} { wire clock/clk_out2 accelerator/clk2x_i }
wire clock/locked core_reset/dcm_locked
wire bus_reset/peripheral_aresetn control/aresetn memory/aresetn dma/axi_resetn to_accelerator/s_axis_aresetn
wire core_reset/peripheral_aresetn accelerator/rst_ni
# a reset of the accelerator by its register empties what stands behind it; what stands before it, it swallows
wire accelerator/core_rst_no from_accelerator/s_axis_aresetn

stream ps/[dict get $ps master] control/S00_AXI
stream control/M00_AXI dma/S_AXI_LITE
stream control/M01_AXI accelerator/s_axil
stream dma/M_AXI_MM2S memory/S00_AXI
stream dma/M_AXI_S2MM memory/S01_AXI
stream memory/M00_AXI ps/[dict get $ps slave]
stream dma/M_AXIS_MM2S to_accelerator/S_AXIS
stream to_accelerator/M_AXIS accelerator/s_axis
stream accelerator/m_axis from_accelerator/S_AXIS
stream from_accelerator/M_AXIS dma/S_AXIS_S2MM
set registers {dma/S_AXI_LITE accelerator/s_axil}
if {$hls} {
  cell core xilinx.com:hls:[dict get $design hls_top]:1.0
  wire clock/clk_out1 core/ap_clk
  wire accelerator/core_rst_no core/ap_rst_n
  stream control/M02_AXI core/s_axi_control
  stream accelerator/m_axis_core core/s_axis
  stream core/m_axis accelerator/s_axis_core
  lappend registers core/s_axi_control
}

set address [dict get $ps base]
foreach port $registers {
  assign_bd_address -offset [format 0x%08X $address] -range 64K [get_bd_addr_segs $port/*]
  incr address 0x10000
}
assign_bd_address
validate_bd_design
save_bd_design
set bd [get_files shell.bd]
add_files -norecurse [make_wrapper -files $bd -top]
set_property top shell_wrapper [current_fileset]
update_compile_order -fileset sources_1
if {$step eq "project"} { exit }

# -- bitstream -----------------------------------------------------------------------------------
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
set run [get_runs impl_1]
if {[get_property PROGRESS $run] ne "100%"} { error "implementation failed: [get_property STATUS $run]" }
open_run impl_1
report_utilization -file [file join $here utilisation.rpt]
report_timing_summary -file [file join $here timing.rpt]
set slack [get_property STATS.WNS $run]
if {$slack < 0} {
  error "timing is not met: slack $slack ns at [dict get $board clock_mhz] MHz; lower clock_mhz of the board"
}
file copy -force [file join [get_property DIRECTORY $run] shell_wrapper.bit] [file join $here accelerator.bit]
set handoff [glob [file join $here project *.gen sources_1 bd shell hw_handoff shell.hwh]]
file copy -force [lindex $handoff 0] [file join $here accelerator.hwh]
puts "sievit: accelerator.bit and accelerator.hwh, slack $slack ns"
exit
