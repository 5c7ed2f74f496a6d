// A program for whose flags GoogleTest's header is precompiled; the programs of tests have the same.
int main() { return 0; }
