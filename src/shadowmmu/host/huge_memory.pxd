from ..x86.bits cimport *
from .bits cimport *
from .mapping cimport Mapping

cpdef object split_folio(Mapping mapping, u64 region, object anon_vma)
cpdef object free_tables(Mapping mapping, u64 first, u64 last)
cpdef bint collapse_region(Mapping mapping, u64 region) except? 1
