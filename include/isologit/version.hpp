#pragma once

// The one place where the version is written; the build reads it from here.
#define ISOLOGIT_VERSION_MAJOR 0
#define ISOLOGIT_VERSION_MINOR 1
#define ISOLOGIT_VERSION_PATCH 0
#define ISOLOGIT_VERSION "0.1.0"
