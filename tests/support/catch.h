// Catch2 v2 (Debian 12) and v3 (newer systems) behind one name.
#pragma once
#if __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#include <catch2/catch_all.hpp>
#endif
