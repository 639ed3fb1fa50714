// SPDX-License-Identifier: Apache-2.0
/// \file
/// Frame files of the test bench and debug taps. Not synthesised.
///
/// A frame file is a sequence of frames: two 32-bit integers, tokens and package flag, then tokens * channels
/// values of 1, 2, 4 or 8 bytes (the smallest that holds the type), all little-endian.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "axis.hpp"

namespace sievit {

/// What a stream carries; `lanes * bits` is the width of a beat.
struct format {
  int channels;
  int lanes;
  int bits;
  int bytes() const { return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : 8; }
};

inline std::ifstream open_input(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << "cannot read " << path << "\n";
    std::exit(2);
  }
  return file;
}

inline std::ofstream open_output(const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << "cannot write " << path << "\n";
    std::exit(2);
  }
  return file;
}

/// Read one frame into a stream of `Beat`; false at the end of the file.
template <class Beat>
bool read_frame(std::istream& file, const format& f, hls::stream<Beat>& out) {
  std::int32_t head[2];
  if (!file.read(reinterpret_cast<char*>(head), sizeof head)) return false;
  const int beats = head[0] * (f.channels / f.lanes);
  for (int i = 0; i < beats; i++) {
    Beat b;
    b.data = 0;
    for (int lane = 0; lane < f.lanes; lane++) {
      std::uint64_t value = 0;
      file.read(reinterpret_cast<char*>(&value), f.bytes());
      for (int bit = 0; bit < f.bits; bit++) b.data[lane * f.bits + bit] = (value >> bit) & 1;
    }
    b.last = i == beats - 1;
    b.user = i == beats - 1 && head[1];
    out.write(b);
  }
  return static_cast<bool>(file);
}

/// Take one frame, which must be all that the stream holds, and append it; `is_signed` extends the sign.
/// With `keep` the frame is put back. Returns false, with a message, for a malformed frame.
template <class Beat>
bool write_frame(std::ostream& file, const format& f, int is_signed, hls::stream<Beat>& in, bool keep) {
  const int per_token = f.channels / f.lanes;
  const int beats = static_cast<int>(in.size());
  std::string values;
  bool last = false, user = false;
  for (int i = 0; i < beats; i++) {
    const Beat b = in.read();
    if (last || (b.user && !b.last)) {
      std::cerr << "beat " << i << " of " << beats << " after last, or user without last\n";
      return false;
    }
    for (int lane = 0; lane < f.lanes; lane++) {
      std::uint64_t value = 0;
      for (int bit = 0; bit < f.bits; bit++)
        value |= std::uint64_t(bool(b.data[lane * f.bits + bit])) << bit;
      if (is_signed && (value >> (f.bits - 1))) value |= ~std::uint64_t(0) << (f.bits - 1);
      values.append(reinterpret_cast<const char*>(&value), f.bytes());
    }
    last = b.last;
    user = b.user;
    if (keep) in.write(b);
  }
  if (!last || beats % per_token) {
    std::cerr << "a frame of " << beats << " beats, " << per_token << " per token, last " << last << "\n";
    return false;
  }
  const std::int32_t head[2] = {beats / per_token, user};
  file.write(reinterpret_cast<const char*>(head), sizeof head);
  file.write(values.data(), static_cast<std::streamsize>(values.size()));
  return true;
}

/// Folder that debug taps write to; empty: no taps.
inline std::string& tap_folder() {
  static std::string folder;
  return folder;
}

/// Append the frame that the stream of an edge holds to `<tap folder>/<file>.bin`, and leave it in the stream.
template <class Beat>
void tap(hls::stream<Beat>& edge, const char* file, const format& f, int is_signed) {
  if (tap_folder().empty()) return;
  std::ofstream out(tap_folder() + "/" + file + ".bin", std::ios::binary | std::ios::app);
  if (!write_frame(out, f, is_signed, edge, true)) {
    std::cerr << "on edge " << file << "\n";
    std::exit(2);
  }
}

}  // namespace sievit
