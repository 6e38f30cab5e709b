cimport cython
from ..x86.bits cimport *
from .bits cimport *
from .memory cimport Arena

@cython.final
cdef class Mapping:
    cdef readonly Arena arena
    cdef readonly u64 hva, npages, base_pfn, first_2m, regions, hugetlb_pages
    cdef readonly u64 near_first, near_last
    cdef readonly object kind, vmas, huge_pages, switches
    cdef readonly bint populated
    cdef public bint protected, replaced
    cdef readonly bint frees_lazily
    cdef readonly u32 uniform_level
    cdef readonly u32 near_flags
    cdef readonly u64[::1] pages
    cdef readonly u8[::1] huge, has_table, directories
    cdef readonly list notifiers
    cdef readonly dict moved
    cdef readonly dict folios, lazyfree
    cdef readonly set zero_regions
    cdef readonly object huge_zero_pfn
    cpdef u64 region_of(self, u64 index) except? 0xdead
    cpdef bint region_fits(self, u64 region) except? 1
    cpdef u64 first_page(self, u64 region) except? 0xdead
    cpdef u32 vma_flags(self, u64 index) except? 0xdead
    cpdef object vmas_changed(self)
    cdef bint is_hugetlb(self, u64 index) except? 1
    cdef bint is_shared(self, u64 index) except? 1
    cpdef bint forbids(self, u64 index, u64 write) except? 1
    cpdef u64 page(self, u64 index) except? 1
    cpdef u64 untouched_page(self, u64 index) except? 1
    cpdef u64 fast_page(self, u64 index, u64 write) except? 1
    cpdef u32 level(self, u64 index) except? 77
    cpdef bint is_huge(self, u64 region) except? 1
    cpdef int install(self, u64 index, u64 pfn, u64 flags) except -1
    cdef int install_run(self, u64 first, u64 npages, u64 pfn, u64 flags) except -1
    cpdef bint has_entry(self, u64 region) except? 1
    cpdef bint has_directory(self, u64 index) except? 1
    cpdef object drop(self, u64 first, u64 last)
    cpdef object free_lazily(self, u64 first, u64 last)
    cdef bint is_cached(self, u64 index) except? 1
    cpdef object index_of(self, u64 pfn)
    cdef u64 new_frame(self, u64 index) except? 0xdead
    cpdef u64 fault(self, u64 index, u64 write) except? 1
    cpdef object written(self, u64 index)
    cdef object _replace_zero_page(self, u64 index)
    cdef object _make_writable(self, u64 index)
    cdef object _populate(self, u64 index, u64 write)
    cdef u64 _hugetlb_start(self, u64 index) except? 0xdead
    cdef u64 _hugetlb_size(self, u64 first) except? 0xdead
    cdef object _populate_hugetlb(self, u64 index, u64 write)
    cdef object _fault_around(self, u64 index)
    cdef bint _untouched(self, u64 first, u64 npages) except? 1
    cdef bint _may_map_huge(self, u64 region, u32 flags) except? 1
    cdef object _map_huge(self, u64 region)
    cdef object _map_huge_zero(self, u64 region)
    cpdef object split_region(self, u64 region)
    cpdef object map_by_small_pages(self, u64 region)
    cdef u64 _replace_huge_zero(self, u64 region, u64 index) except? 1
    cpdef bint has_folio(self, u64 index) except? 1
    cpdef object change_protection(self, u64 first, u64 last, u32 prot)
