// SPDX-License-Identifier: Apache-2.0
// Drives clock, reset and the serial line of a Verilated design; the host is the other end of a pipe.
//
// Request, all numbers of 32 bits, least significant byte first: count, wanted, limit, then `count` times
// 16 bits, the levels of a line during ten bits (start bit first). They are queued; the simulation runs
// until `wanted` characters have come, or for `limit` bits. Reply: number, then that many characters.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

namespace {

bool read_words(uint32_t *words, size_t count) { return fread(words, 4, count, stdin) == count; }

struct Line {
  const int clocks;  // per bit
  std::deque<uint16_t> symbols;
  int send_bit = 0, send_time = 0;
  std::deque<uint8_t> characters;
  int receive_bit = -1, receive_time = 0;
  uint16_t receive_shift = 0;

  int rx() {  // level of the line into the design, in this cycle
    if (symbols.empty()) return 1;
    const int level = symbols.front() >> send_bit & 1;
    if (++send_time == clocks) {
      send_time = 0;
      if (++send_bit == 10) {
        send_bit = 0;
        symbols.pop_front();
      }
    }
    return level;
  }

  void tx(int level) {  // level of the line out of the design
    if (receive_bit < 0) {
      if (level) return;
      receive_bit = 0;
      receive_time = clocks / 2;
      receive_shift = 0;
    }
    if (receive_time-- > 0) return;
    receive_time = clocks - 1;
    receive_shift |= level << receive_bit;
    if (++receive_bit == 10) {
      receive_bit = -1;
      if ((receive_shift & 0x201) != 0x200) {
        fprintf(stderr, "the design sent a character without start or stop bit\n");
        exit(3);
      }
      characters.push_back(receive_shift >> 1 & 0xff);
    }
  }
};

}  // namespace

int main(int argc, char **argv) {
  // the pipe is for replies alone: what the design prints goes to stderr
  FILE *const out = fdopen(dup(1), "wb");
  if (!out || dup2(2, 1) < 0) return 2;
  const std::unique_ptr<VerilatedContext> context{new VerilatedContext};
  context->commandArgs(argc, argv);
  if (argc < 2) return 2;
  Line line{atoi(argv[1])};
  // without a name, as cocotb has it: paths of instances begin with the top module
  const std::unique_ptr<Vtop> top{new Vtop{context.get(), ""}};

  auto cycle = [&](int reset_n) {
    top->clk_i = 0;
    top->rst_ni = reset_n;
    top->rx_i = line.rx();
    top->eval();
    top->clk_i = 1;
    top->eval();
    if (reset_n) line.tx(top->tx_o);
  };
  for (int i = 0; i < 8; i++) cycle(0);

  uint32_t head[3];
  while (read_words(head, 3)) {
    for (uint32_t i = 0; i < head[0]; i++) {
      uint16_t symbol;
      if (fread(&symbol, 2, 1, stdin) != 1) return 2;
      line.symbols.push_back(symbol);
    }
    for (uint64_t left = uint64_t{head[2]} * line.clocks; left && line.characters.size() < head[1]; left--) {
      cycle(1);
    }
    uint32_t count = line.characters.size() < head[1] ? line.characters.size() : head[1];
    fwrite(&count, 4, 1, out);
    for (uint32_t i = 0; i < count; i++) {
      putc(line.characters.front(), out);
      line.characters.pop_front();
    }
    fflush(out);
  }
  top->final();
  return 0;
}
