from .shadow_page cimport ShadowPage
from .vcpu cimport Vcpu
from .vm cimport Kvm
