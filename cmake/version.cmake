# Writes core/version.h. Every build runs it: no file that a build system watches tells of a commit or of an edit. A
# header that would stay the same is not touched, so nothing is compiled again.
#   cmake -DSOURCE=DIR -DOUTPUT=FILE -DPROJECT_VERSION=X.Y.Z -P cmake/version.cmake
set(OLMOE_GIT_COMMIT "")
set(edits "")
if(EXISTS "${SOURCE}/.git")  # else git would tell of a repository that this folder happens to lie in
  execute_process(COMMAND git rev-parse --verify --short=12 HEAD WORKING_DIRECTORY "${SOURCE}"
                  OUTPUT_VARIABLE OLMOE_GIT_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  # `git describe --dirty` would lock the index of whoever commits while this builds.
  execute_process(COMMAND git --no-optional-locks status --porcelain --untracked-files=no WORKING_DIRECTORY "${SOURCE}"
                  OUTPUT_VARIABLE edits OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT OLMOE_GIT_COMMIT)
  set(OLMOE_GIT_COMMIT unknown)
elseif(NOT edits STREQUAL "")
  string(APPEND OLMOE_GIT_COMMIT -dirty)
endif()
configure_file("${SOURCE}/core/version.h.in" "${OUTPUT}" @ONLY)
