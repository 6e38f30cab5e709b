from ..state.shadow_page cimport ShadowPage
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
