/* The 64-bit half: one phase, with the tables that it was entered with. */
#include "tour.h"

void main64(void)
{
    load_tables();
    u32 five = *(volatile u32 *)(SHARED + 0x104) == 3;
    mode.name = five ? "64-bit, 5 levels" : "64-bit, 4 levels";
    mode.levels = five ? 5 : 4;
    mode.bits = 9;
    mode.entry_size = 8;
    mode.window = five ? 0x2a804040000000 : 0x2a8040000000;
    tour(*(volatile u32 *)(SHARED + 0x100));
}
