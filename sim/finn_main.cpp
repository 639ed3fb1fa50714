// SPDX-License-Identifier: Apache-2.0
// Program around one verilated FINN design: plays beats into its AXI-Stream inputs, records those
// of its outputs. Knows nothing of the design but ports.inc, which lists its ports.
//
//   Vtop FOLDER [TRACE.vcd]
//
// FOLDER/case holds `watchdog N`, `silence N`, `seed N` and a line `NAME BEATS` per stream in use;
// FOLDER/NAME.in the beats of an input, little-endian, ceil(bits/8) bytes each; FOLDER/NAME.go one
// byte per cycle, repeated, 0: stall; an empty one makes a sink ready only after a beat waits.
// Writes FOLDER/NAME.out and FOLDER/result: `cycles N` or `error TEXT`.
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

using Bytes = std::vector<uint8_t>;

struct Stream {
  std::string name;
  bool input;
  int bits;
  void *data;
  std::size_t size;  // bytes of the C++ variable at `data`
  CData *valid;
  CData *ready;

  bool used = false;
  std::size_t beats = 0;  // to send, or expected
  std::size_t at = 0;     // how many of them have passed
  Bytes store;            // all beats
  Bytes go;
  Bytes held;  // offered by the design, not yet taken

  std::size_t bytes() const { return (bits + 7) / 8; }
  Bytes read() const {
    Bytes beat(bytes());
    std::memcpy(beat.data(), data, bytes());
    return beat;
  }
};

Bytes load(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

class Bench {
 public:
  Bench(VerilatedContext &context, std::string folder, const char *trace)
      : context_(context), top_(&context), folder_(std::move(folder)) {
#define INPUT(name, bits, data, valid, ready) \
  streams_.push_back({#name, true, bits, &top_.data, sizeof(top_.data), &top_.valid, &top_.ready});
#define OUTPUT(name, bits, data, valid, ready) \
  streams_.push_back({#name, false, bits, &top_.data, sizeof(top_.data), &top_.valid, &top_.ready});
#define ZERO(port) std::memset(&top_.port, 0, sizeof(top_.port));
#define CLK2X(port) clk2x_ = &top_.port;
#include "ports.inc"
#if VM_TRACE
    if (trace) {
      top_.trace(&vcd_, 99);
      vcd_.open(trace);
    }
#else
    (void)trace;
#endif
  }

  void run() {
    std::string error = read_case();
    uint64_t cycles = 0;
    if (error.empty()) {
      reset();
      error = play(cycles);
    }
    top_.final();
#if VM_TRACE
    if (vcd_.isOpen()) vcd_.close();
#endif
    for (const Stream &s : streams_) {
      if (s.used && !s.input) {
        std::ofstream(folder_ + "/" + s.name + ".out", std::ios::binary)
            .write(reinterpret_cast<const char *>(s.store.data()), s.store.size());
      }
    }
    std::ofstream result(folder_ + "/result");
    if (error.empty()) {
      result << "cycles " << cycles << "\n";
    } else {
      result << "error " << error << "\n";
    }
  }

 private:
  std::string read_case() {
    std::ifstream file(folder_ + "/case");
    std::string name;
    uint64_t number = 0;
    while (file >> name >> number) {
      if (name == "watchdog") {
        watchdog_ = number;
      } else if (name == "silence") {
        silence_ = number;
      } else if (name == "seed") {
        noise_.seed(number);
      } else {
        Stream *found = nullptr;
        for (Stream &s : streams_) {
          if (s.name == name) found = &s;
        }
        if (!found) return "the design has no stream " + name;
        found->used = true;
        found->beats = number;
        found->go = load(folder_ + "/" + name + ".go");
        if (found->input) found->store = load(folder_ + "/" + name + ".in");
      }
    }
    return "";
  }

  void eval() {
    top_.eval();
#if VM_TRACE
    if (vcd_.isOpen()) vcd_.dump(context_.time());
#endif
    context_.timeInc(1);
  }

  /// From a rising edge to the moment before the next. Inputs stay put across both rising edges of
  /// a doubled clock.
  void settle() {
    if (clk2x_) {
      *clk2x_ = 0;
      eval();
      *clk2x_ = 1;
    }
    top_.ap_clk = 0;
    eval();
    if (clk2x_) {
      *clk2x_ = 0;
      eval();
    }
  }

  void rise() {
    top_.ap_clk = 1;
    if (clk2x_) *clk2x_ = 1;
    eval();
  }

  void reset() {
    top_.ap_clk = 0;
    top_.ap_rst_n = 0;
    for (Stream &s : streams_) *(s.input ? s.valid : s.ready) = 0;
    for (int cycle = 0; cycle < 18; cycle++) {
      top_.ap_rst_n = cycle >= 17;
      settle();
      rise();
    }
  }

  /// Data that nobody may look at.
  void scramble(Stream &s) {
    auto *bytes = static_cast<uint8_t *>(s.data);
    for (std::size_t i = 0; i < s.bytes(); i++) bytes[i] = static_cast<uint8_t>(noise_());
    if (s.bits % 8) bytes[s.bytes() - 1] &= (1 << (s.bits % 8)) - 1;
  }

  void drive(Stream &s, uint64_t cycle) {
    const bool go = s.go.empty() ? !s.held.empty() : s.go[cycle % s.go.size()];
    if (!s.input) {
      *s.ready = go;
    } else if (s.at == s.beats || (!s.held.size() && !go)) {
      *s.valid = 0;
      scramble(s);
    } else if (s.held.empty()) {  // once offered a beat stays until it is taken
      s.held.assign(1, 1);
      std::memset(s.data, 0, s.size);
      std::memcpy(s.data, &s.store[s.at * s.bytes()], s.bytes());
      *s.valid = 1;
    }
  }

  /// Returns what is wrong, if anything.
  std::string sample(Stream &s, bool &passed) {
    const bool taken = *s.valid && *s.ready;
    if (s.input) {
      if (taken) {
        s.at++;
        s.held.clear();
        passed = true;
      }
      return "";
    }
    if (!*s.valid) {
      if (!s.held.empty()) return s.name + " withdrew TVALID before TREADY";
      return "";
    }
    const Bytes beat = s.read();
    if (!s.held.empty() && beat != s.held) return s.name + " changed TDATA while it was stalled";
    s.held = taken ? Bytes() : beat;
    if (s.at == s.beats) {
      if (!silence_) return "";
      return s.name + " gave a beat after the last of " + std::to_string(s.beats);
    }
    if (taken) {
      s.at++;
      s.store.insert(s.store.end(), beat.begin(), beat.end());
      passed = true;
    }
    return "";
  }

  std::string play(uint64_t &cycles) {
    uint64_t idle = 0;
    for (uint64_t cycle = 0;; cycle++) {
      for (Stream &s : streams_) {
        if (s.used) drive(s, cycle);
      }
      settle();
      bool passed = false;
      bool done = true;
      for (Stream &s : streams_) {
        if (!s.used) continue;
        const std::string wrong = sample(s, passed);
        if (!wrong.empty()) return "cycle " + std::to_string(cycle) + ": " + wrong;
        done &= s.at == s.beats;
      }
      rise();
      if (context_.gotFinish()) return "the design called $finish, see its messages";
      idle = passed ? 0 : idle + 1;
      if (passed) cycles = cycle + 1;
      if (done && idle >= silence_) return "";
      if (!done && idle > watchdog_) return stuck(cycle);
    }
  }

  std::string stuck(uint64_t cycle) const {
    std::ostringstream text;
    text << "cycle " << cycle << ": no beat on any stream for " << watchdog_ << " cycles;";
    const char *comma = " ";
    for (const Stream &s : streams_) {
      if (!s.used) continue;
      text << comma << s.name << (s.input ? " took " : " gave ") << s.at << " of " << s.beats;
      comma = ", ";
    }
    return text.str();
  }

  VerilatedContext &context_;
  Vtop top_;
#if VM_TRACE
  VerilatedVcdC vcd_;
#endif
  std::string folder_;
  std::vector<Stream> streams_;
  CData *clk2x_ = nullptr;
  uint64_t watchdog_ = 0;
  uint64_t silence_ = 0;
  std::mt19937 noise_;
};

}  // namespace

int main(int argc, char **argv) {
  VerilatedContext context;
  context.commandArgs(argc, argv);
  const bool traced = argc > 2 && argv[2][0] != '+';
  if (traced) context.traceEverOn(true);
  Bench(context, argv[1], traced ? argv[2] : nullptr).run();
  return 0;
}
