cdef void passed(void *uc, unsigned long long address, unsigned int size, unsigned long long *words) noexcept nogil
